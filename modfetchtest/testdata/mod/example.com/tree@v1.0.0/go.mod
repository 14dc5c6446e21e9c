module example.com/tree

retract v0.9.0
