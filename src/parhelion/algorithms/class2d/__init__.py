"""Maximum-likelihood classification of images in two dimensions."""
