"""Records of scores with everything that another person needs to reproduce them."""
