"""The story world, our own text: 64 places, 49 people, 20 happenings, and 18 × 15 × 21 things to buy."""

from __future__ import annotations

PROTAGONIST = "Tamsin"

LOCATIONS = (
    "the salt harbour", "the old observatory", "the lantern market", "the paper mill", "the glass arcade",
    "the river ferry", "the cedar library", "the clock workshop", "the hill chapel", "the weavers' yard",
    "the copper bridge", "the night bakery", "the stone quarry", "the botanical house", "the sailmakers' loft",
    "the postal station", "the amber mine", "the winter stables", "the orchard gate", "the tide pool",
    "the foundry", "the map room", "the puppet theatre", "the tea terrace", "the brick kiln",
    "the signal tower", "the wool exchange", "the herb garden", "the lower canal", "the customs house",
    "the rope walk", "the moss garden", "the cider press", "the upper lock", "the bell foundry",
    "the fish steps", "the chestnut square", "the ink cellar", "the dry dock", "the poets' tavern",
    "the wind farm", "the toll house", "the marble stairs", "the grain silo", "the spice hall",
    "the printing office", "the swan pond", "the guild archive", "the tram depot", "the peat bog",
    "the lighthouse", "the pottery lane", "the sunken court", "the honey farm", "the western gate",
    "the ice house", "the falconry", "the drapers' row", "the granite pier", "the dyers' well",
    "the music school", "the coach inn", "the fern ravine", "the silver baths",
)  # fmt: skip

CHARACTERS = (
    "Abelard", "Brunhild", "Casimir", "Dorothea", "Emeric", "Fenella", "Gaspard", "Hedwig", "Isidore", "Jorunn",
    "Kerensa", "Lazarus", "Mirabel", "Nikodem", "Ottilie", "Percival", "Quirin", "Rosalind", "Sigmund", "Theodora",
    "Ulrich", "Veronika", "Wilhelm", "Xanthe", "Yvette", "Zacharias", "Anselm", "Beatrix", "Cornelius", "Delphine",
    "Eskil", "Frideswide", "Gideon", "Honora", "Ignatius", "Jocasta", "Klemens", "Leocadia", "Magnus", "Nerissa",
    "Octavian", "Petronella", "Roderick", "Seraphina", "Tobias", "Ursula", "Valentin", "Winifred", "Zenobia",
)  # fmt: skip

EVENTS = (
    "a choir rehearsal", "a sudden hailstorm", "a chess contest", "a boat launch", "a kite race", "a public lecture",
    "a harvest supper", "a broken water main", "a lantern parade", "a dog show", "a quarrel over a fence",
    "a school outing", "a street auction", "a fire drill", "a visit by inspectors", "a wedding party",
    "a poetry reading", "a lost parrot", "a cheese tasting", "a partial eclipse",
)  # fmt: skip

ADJECTIVES = (
    "narrow", "polished", "dented", "tiny", "heavy", "curved", "painted", "plain", "ancient",
    "folding", "striped", "hollow", "gleaming", "rough", "square", "engraved", "faded", "slender",
)  # fmt: skip

MATERIALS = (
    "copper", "walnut", "leather", "porcelain", "iron", "linen", "pewter", "bamboo",
    "marble", "brass", "wicker", "slate", "ivory-coloured", "felt", "silver",
)  # fmt: skip

TYPES = (
    "lantern", "flute", "box", "compass", "mirror", "kettle", "mask", "comb", "hourglass", "bookend", "whistle",
    "tray", "bracelet", "inkwell", "candlestick", "thimble", "chess piece", "umbrella stand", "spoon", "bell", "vase",
)  # fmt: skip
