"""The models of a release, one file a model."""
