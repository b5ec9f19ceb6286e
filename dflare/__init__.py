"""The search for images on which a compressed classifier no longer answers as its original does."""
