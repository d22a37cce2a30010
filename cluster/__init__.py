"""Ways onto a cluster: jobs, tokens, paths that every node sees."""
