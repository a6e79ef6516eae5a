"""What runs beside the provider: installation and the demo."""
