"""Values to envelopes and buffers, and back."""
