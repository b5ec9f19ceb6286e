"""`.pt2` files: exported programs, float and int8, trained and written back in place."""
