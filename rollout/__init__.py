"""From proven packages to nodes. Reads a dist folder's manifest, and knows no build."""
