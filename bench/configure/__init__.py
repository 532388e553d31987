"""How each program is configured: the pieces that scenarios put together."""
