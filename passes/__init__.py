"""One rewrite per file; the pipeline runs and verifies them."""
