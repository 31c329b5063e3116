"""Banks of pretrained features: the file, its extraction, and the ring that training reads."""
