"""From texts, pictures and sounds to vectors."""
