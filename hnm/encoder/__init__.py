"""The network of the patches: layers, augmentation, losses, SimCLR, fine-tuning, embedding."""
