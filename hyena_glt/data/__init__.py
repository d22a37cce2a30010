"""From FASTA to tokenized shards on Ray, and from shards to training batches."""
