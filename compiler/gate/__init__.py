"""Whether a bundle is still as good as it was: figures beside a baseline's, with verdicts."""
