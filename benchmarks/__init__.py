"""One script per claim; every result is a JSON file under results/, every table is made from those by tables.py."""
