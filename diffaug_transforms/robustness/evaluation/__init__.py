"""How accurate a classifier is on clean, corrupted and shifted images, alone and with the methods for test time."""
