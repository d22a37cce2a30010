"""Read what pretraining data are made of beside FASTA: variants, annotations, protein structures."""
