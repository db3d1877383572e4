"""How far generated pictures are from real ones, and whether they are copies of them."""
