"""What `embeddings` is made of: encoders, how names become encoders, own vectors, and the store on disk."""
