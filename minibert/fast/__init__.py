"""What makes encoding fast: the same page, fed well."""
