"""Output repair: a small head behind a compressed model that stays closed."""
