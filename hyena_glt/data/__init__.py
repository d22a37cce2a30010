"""From FASTA to tokenized shards on Ray Data, and from shards to training batches."""
