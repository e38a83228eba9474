"""Parts of the fleet's benchmark."""
