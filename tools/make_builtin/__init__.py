"""Make the model that ships inside the package: see `command`."""
