"""What every room uses: files, settings, digests, checks of input; it knows nothing of models."""
