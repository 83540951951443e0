"""How anything is trained: devices, epochs, checkpoints, privacy."""
