"""Training from scratch: autoencoder, scorers with the text encoder, denoiser; in this order."""
