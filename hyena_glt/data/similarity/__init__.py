"""How alike sequences are: k-mer hashes, near-duplicate windows, homology clusters of records, leakage between splits."""
