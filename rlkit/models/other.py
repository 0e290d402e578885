"""Any family without a file of its own: stock forward passes on separate rows, and the tower guessed from names."""

# Only used to freeze or adapt the tower; a family with other names should get its own file.
VISION = r"(model\.)?(\w*vis(ual|ion)\w*|\w*image\w*|multi_modal\w*|mm_\w+|connector)\."
