"""A finished run -> one self-contained HTML file."""
