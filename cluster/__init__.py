"""Ways onto a cluster: launchers, manifests, submission."""
