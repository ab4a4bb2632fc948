"""What the networks' own authors call the layers that diffusers renamed: one table, for weights and for LoRAs alike."""
