"""The bundle on disk: written, verified, run, handed to other builders."""
