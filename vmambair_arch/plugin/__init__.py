"""What ties this package to BasicSR and spandrel."""
