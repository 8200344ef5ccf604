"""LongRoPE2 and its rivals: RoPE factors, the windowed rotary module."""
