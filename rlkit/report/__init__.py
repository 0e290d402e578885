"""What people read: the report of a run, model cards, tables, film strips, and the page to review pairs."""
