"""The words that the corpus is made of."""

# ruff: noqa: SIM905 — long word lists read better as text than as lists of literals

from random import Random

OBJECTS = """
hat lantern boat book cup kite drum bell key map clock lamp chair table basket ladder mirror candle blanket pillow
spoon fork plate bowl kettle teapot jar bottle bucket broom brush comb ribbon button needle scarf coat shoe boot
glove sock shirt dress jacket umbrella bag suitcase backpack box chest barrel crate wagon cart bicycle train bus
car truck plane rocket balloon ship canoe raft anchor sail rope net oar compass telescope microscope camera radio
phone robot computer piano violin guitar flute trumpet harp whistle ball doll puppet puzzle marble coin ring crown
necklace bracelet sword shield bow arrow flag banner tent torch stone pebble feather shell leaf flower rose tulip
daisy acorn nut seed mushroom apple pear orange lemon banana cherry peach plum melon pumpkin carrot potato tomato
onion cake cookie pie loaf sandwich pancake muffin egg letter stamp envelope pencil pen notebook newspaper painting
statue vase carpet curtain window door gate fence bridge tower castle cottage barn mill hut cabin house tree bench
swing slide sandcastle snowman sled ski skate hammer saw shovel rake wheel engine magnet battery bulb wand potion
cloak broomstick spell treasure diamond pearl ruby emerald crystal star comet hourglass calendar postcard poster
ticket trophy medal helmet belt purse wallet watch razor towel soap sponge mug saucepan oven stove fridge toaster
fan heater pipe hose bathtub sink tap brick plank log branch root nest web cocoon fossil bone drumstick tambourine
xylophone accordion banjo cello saxophone microphone keyboard screen printer satellite spaceship submarine tractor
motorcycle scooter skateboard parachute hammock cradle crib stroller wheelbarrow windmill lighthouse fountain
pyramid igloo tunnel cave maze garden well stool desk shelf cupboard drawer rug quilt apron sandal slipper crayon
paintbrush eraser ruler stapler folder globe flashlight lollipop biscuit doughnut waffle cupcake
""".split()

ANIMALS = """
fox dog cat rabbit mouse bear wolf owl crow robin sparrow duck goose swan hen rooster pig cow sheep goat horse
donkey lion tiger elephant giraffe zebra monkey panda koala kangaroo penguin seal whale dolphin shark octopus crab
turtle frog toad lizard snake snail spider bee ant butterfly moth beetle ladybug hedgehog squirrel badger otter
beaver deer moose camel llama parrot eagle hawk pelican flamingo peacock bat mole hamster puppy kitten dragon
unicorn dinosaur crocodile hippo rhino cheetah leopard raccoon skunk ferret salmon goldfish seahorse jellyfish
""".split()

PEOPLE = """
girl boy baker sailor farmer king queen prince princess knight wizard witch pirate teacher doctor painter gardener
fisherman musician dancer clown giant dwarf fairy ghost mermaid shepherd tailor carpenter baby grandmother
grandfather captain pilot astronaut detective inventor librarian postman chef nurse driver student hunter miller
potter blacksmith singer poet juggler magician explorer firefighter soldier stranger traveller
""".split()

SCENERY = """
sea moon sun wind rain snow forest river mountain desert sky night ocean island beach lake village city school
market park meadow winter summer autumn spring storm fog rainbow library museum harbour circus jungle
""".split()

IDEAS = """
friendship courage music kindness honesty patience hope luck love magic time sleep silence sharing bravery trust
laughter curiosity learning happiness bread chocolate honey milk tea soup rice gold silver ice
""".split()

PLURALS = """
stars clouds flowers shoes apples cookies birds friends books bees berries shells mittens waves mountains pancakes
fireflies leaves stones dreams bubbles letters socks balloons pirates dragons robots trains
""".split()

ADJECTIVES = """
red blue green yellow purple orange pink black white brown grey golden silver old new tiny small big huge little
long short tall round square shiny dusty broken wooden glass paper stone warm cold soft hard heavy light loud quiet
happy sad brave shy clever lazy hungry sleepy angry funny kind curious lost lonely gentle magic secret strange
beautiful ugly bright dark striped spotted fluffy muddy wet dry empty full sweet sour spicy rusty crooked friendly
grumpy nervous proud polite busy noisy hidden frozen floating flying talking dancing singing invisible ancient
""".split()

NAMES = """
Mia Tom Ana Ben Lily Max Nora Sam Zoe Leo Ella Jack Ruby Finn Ivy Noah Maya Owen Clara Hugo Rosa Theo Alice Felix
Emma Oscar Lena Paul Sofia Karl Nina Otto Greta Liam Vera Adam Iris Simon Hana Yusuf Amira Kenji Priya Omar Lucia
Mateo Freya Anton Olga Pavel Ingrid Marco Elif Tariq Wei Mei Arjun Leila Jonas Petra David Sarah John Mary Peter
Anna Bob Eve Carol Daniel Julia Kevin Laura Martin Olivia Emily James Robert Linda Susan
""".split()

CITIES = """
Paris London Berlin Rome Madrid Oslo Vienna Prague Lisbon Dublin Athens Warsaw Cairo Nairobi Lagos Tokyo Kyoto Seoul
Beijing Shanghai Delhi Mumbai Sydney Auckland Toronto Boston Chicago Denver Austin Seattle Lima Bogota Santiago Quito
Havana Zurich Geneva Munich Hamburg Cologne Milan Naples Turin Porto Bergen Helsinki Stockholm Copenhagen Amsterdam
Brussels Istanbul Ankara Dubai Doha Singapore Bangkok Hanoi Jakarta Manila Taipei Montreal Dallas Miami
""".split()

COUNTRIES = """
France Germany Italy Spain Norway Austria Portugal Ireland Greece Poland Egypt Kenya Nigeria Japan China India
Australia Canada Mexico Peru Chile Brazil Cuba Turkey Sweden Finland Denmark Belgium Vietnam Thailand
""".split()

COLOURS = "red blue green yellow purple orange pink black white brown grey golden silver".split()
JOBS = """
baker teacher doctor nurse farmer pilot painter sailor engineer driver cook writer singer carpenter plumber
electrician lawyer gardener musician actor dentist judge tailor waiter
""".split()
FOODS = """
pizza soup salad bread pasta rice cheese cake sandwich pancakes curry noodles sushi tacos stew omelette burger
dumplings porridge pie
""".split()
HOBBIES = """
reading swimming painting cooking chess football tennis running hiking fishing gardening dancing singing drawing
cycling skating sailing knitting photography travel
""".split()
VERBS = """
open close start stop paint move lift find send count clean repair lock unlock check update create delete show hide
turn load save print measure build order rent book cancel schedule track test launch scan sort share copy install
remove replace adjust rotate heat cool wash water feed play record compare reserve
""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
LANGUAGES = "English French German Spanish Italian Portuguese Dutch Greek Japanese Chinese Arabic Turkish".split()

ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl st tr sh ch th sk".split()
VOWELS = "a e i o u a e i o ai ee oo ou".split()
CODAS = ["", "", "", "n", "r", "l", "m", "t", "s", "k", "x", "nd", "rt", "sh", "ck"]


def article(noun: str) -> str:
    """The indefinite article that goes before a word."""
    return "an" if noun[0].lower() in "aeiou" and not noun.startswith("uni") else "a"


def invented(rng: Random, most_syllables: int = 3) -> str:
    """A word that no list holds, so that the model learns to copy what it has never seen."""
    count = rng.randint(2, most_syllables)
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count))


def listed(items: list[str], joiner: str = "and") -> str:
    """Items as a sentence names them: a, b and c."""
    if len(items) == 1:
        return items[0]
    return ", ".join(items[:-1]) + f" {joiner} " + items[-1]
