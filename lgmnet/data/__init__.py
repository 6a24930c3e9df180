"""Images: reading, packing, cropping, test sets."""
