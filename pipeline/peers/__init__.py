"""Who is measured beside the models, by one protocol."""
