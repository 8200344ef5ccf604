"""One plug-in per benchmark."""
