"""Tools that no run needs: publishing, the demonstration and its synthesised corpus."""
