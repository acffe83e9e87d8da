"""What the generator does with its latent space, and what a classifier tells its images by.

``alone.py`` is made from the generator alone, and is as public as its release; ``local.py`` looks at real patients.
"""
