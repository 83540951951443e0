"""The walk from raw files to a release, stage by stage."""
