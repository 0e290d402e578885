"""Model families: one file each, named by transformers' model_type."""
