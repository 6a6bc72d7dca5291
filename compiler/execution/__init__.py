"""Programs run on frames: feeds, statistics, outputs beside the originals', latency."""
