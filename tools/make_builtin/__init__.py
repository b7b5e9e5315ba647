"""The maker of the model that ships inside the package: see `command`."""
