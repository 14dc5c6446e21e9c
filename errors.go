package modfetch
