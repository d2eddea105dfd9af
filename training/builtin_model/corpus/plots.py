"""The sentences that stories are built from.

{hero} is the hero's name or "the fox", {He} {he} {him} {his} are pronouns, {friend} a name, {place} a place,
{a} a thing named for the first time, {the} the same thing named again, {A} and {The} at a sentence's start.
"""

# ruff: noqa: SIM905 — long word lists read better as text than as lists of literals

PLACES = """
a small village
a quiet town
a hut at the edge of the forest
a little house by the sea
an old mill
a green valley
a busy city
a house at the foot of a mountain
a farmhouse on a hill
a cottage near the river
a village on a windy island
a street with tall trees
a town with a harbour full of boats
a cottage with a garden behind a wall
a tower with round windows
a warm cave
a wooden cabin by the lake
""".strip().splitlines()

SPOTS = """
under a tree
behind the old wall
near the bridge
at the market
on the path
by the well
in the tall grass
next to the fence
beside a pond
at the top of the hill
in a dark corner
on a flat rock
under a bush
by the road
in front of the door
on the window sill
between two stones
at the end of the lane
""".strip().splitlines()

OPENING_BEING = (
    "Once upon a time there was {a} who lived in {place}.",
    "There was once {a} who lived in {place}.",
    "Long ago, {a} lived in {place}.",
    "In {place} there lived {a}.",
    "{A} woke up early one morning in {place}.",
    "Everyone in {place} knew {a} who never stood still.",
    "Not far from here, in {place}, lived {a}.",
    "Once there was {a} who loved to look at the clouds.",
    "{A} lived in {place} and liked nothing more than a good walk.",
    "One bright morning, {a} set out from {place}.",
)
OPENING_NAMED = (
    "Once upon a time, {hero} lived in {place}.",
    "{hero} lived in {place} and was always curious.",
    "There was once a child named {hero} who lived in {place}.",
    "One bright morning, {hero} left home with a smile.",
    "In {place} lived {hero}, who loved a good adventure.",
    "{hero} woke up early because it was a special day.",
    "It was a quiet afternoon, and {hero} had nothing to do.",
    "{hero} had always wanted to see the world beyond {place}.",
    "Every day {hero} walked through {place} and looked around.",
)
WISH = (
    "{He} often felt that something was missing.",
    "{He} dreamed of a great adventure.",
    "{He} wanted to find a present for a friend.",
    "{He} had promised to help {friend} that day.",
    "{He} was looking for something new to do.",
    "That day {he} decided to go farther than ever before.",
    "{He} hoped that something wonderful would happen.",
    "{He} had never seen anything strange before.",
    "The night before, {he} had heard a soft song in a dream.",
)
MEET_OBJECT = (
    "On the way, {he} found {a} {spot}.",
    "One day {he} saw {a} {spot}.",
    "Then {he} came across {a} {spot}.",
    "{spot_up}, {he} noticed {a}.",
    "{friend} gave {him} {a} and told {him} to take good care of it.",
    "There, {spot}, was {a}.",
    "A little later {he} discovered {a} {spot}.",
    "{He} looked around and saw {a} {spot}.",
    "At home {he} kept {a}, which was very dear to {him}.",
    "An old woman showed {him} {a} {spot}.",
    "Suddenly {he} stumbled over {a} {spot}.",
)
MEET_BEING = (
    "On the way, {he} met {a} {spot}.",
    "{spot_up}, {a} was waiting for {him}.",
    "There {he} met {a}, who looked a little sad.",
    "Then {a} came along and said hello.",
    "{A} was sitting {spot} and waved at {him}.",
    "Soon {he} made friends with {a}.",
    "A little later {a} asked {him} for help.",
)
MEET_SCENERY = (
    "All around {him} was {the}, and it was beautiful.",
    "{He} had always loved {the}.",
    "{The} made {him} feel calm and happy.",
    "That day {he} thought about {the} for a long time.",
    "{He} stopped and looked, for {the} was more beautiful than ever.",
    "Nothing made {him} as happy as {the}.",
)
MEET_IDEA = (
    "{friend} had once told {him} about {the}.",
    "{He} wanted to know what {the} really meant.",
    "More than anything, {he} cared about {the}.",
    "On that day {he} thought a lot about {the}.",
    "{He} believed that the world needed more {the}.",
)
MEET_PLURAL = (
    "On the way, {he} saw {a} {spot}.",
    "{spot_up} there were {a}.",
    "{He} counted {a} and laughed.",
    "Then {he} found {a} {spot}.",
    "{friend} showed {him} {a} {spot}.",
)
DETAIL_OBJECT = (
    "{The} was a little dusty, but {he} liked it at once.",
    "{The} looked very old, and nobody knew where it came from.",
    "{He} looked at {the} and smiled.",
    "Nobody had touched {the} for many years.",
    "{The} seemed to be waiting for someone.",
    "{He} had never seen {a} like that before.",
    '"What a lovely thing," {he} said and looked at {the} again.',
    "{He} wondered who had left {the} there.",
)
DETAIL_BEING = (
    "{The} was friendly and told {him} a story.",
    '"Will you come with me?" asked {the}.',
    "{The} had lost the way home.",
    '"I have been looking for you," said {the}.',
    "{The} was shy at first, but soon they laughed together.",
)
JOIN = (
    "{The} and {the2} seemed to belong together.",
    "{He} thought that {the} and {the2} made a fine pair.",
    "With {the} and {the2}, the day felt like a holiday.",
    "{He} could not decide which was better, {the} or {the2}.",
)
TROUBLE = (
    "But then a strong wind began to blow.",
    "Suddenly it started to rain, and the path was gone.",
    "But the way home was long and it grew dark.",
    "Then {he} heard a strange noise.",
    "But {friend} was in trouble and called for help.",
    "Then the bridge broke, and nobody could cross the river.",
    "All at once the light went out.",
    "But something was wrong, and everybody looked worried.",
    "Then {he} lost the way and did not know where to go.",
)
SOLVE_OBJECT = (
    "{He} held {the} close and was not afraid any more.",
    "With the help of {the}, {he} found a way out.",
    "{He} remembered {the} and knew what to do.",
    "Thanks to {the}, everything turned out well.",
    "{He} shared {the} with {friend}, and together they solved the problem.",
    "{He} used {the} in a clever way, and soon all was well.",
)
SOLVE_BEING = (
    "{The} knew the way and led {him} to safety.",
    "Together with {the}, {he} found a clever plan.",
    "{The} helped {him}, and soon all was well.",
    "{He} and {the} worked side by side until the job was done.",
    "{The} called for friends, and all of them came to help.",
)
SOLVE_OTHER = (
    "{He} thought of {the} and felt brave again.",
    "{He} took a deep breath, thought of {the} and went on.",
    "In the end {the} showed {him} the way.",
)
SOLVE_ALONE = (
    "{He} was patient and found a clever answer.",
    "{He} asked {friend} for help, and together they found a way.",
    "{He} took a deep breath and did not give up.",
)
CLOSING = (
    "That night {hero} fell asleep with a smile.",
    "From that day on, {hero} was never lonely again.",
    "And so {hero} went home and told everyone about it.",
    "{hero_up} never forgot that day.",
    "In the end everyone was happy, and {hero} most of all.",
    "When the sun went down, {hero} walked home and sang.",
    "And if you listen carefully, you can still hear {hero} laugh.",
    "Since then {hero} has known that small things can be great.",
    "They celebrated until the stars came out.",
    "It was the best day of the whole year.",
)
GIRLS = frozenset(
    """
    Mia Ana Lily Nora Zoe Ella Ruby Ivy Maya Clara Rosa Alice Emma Lena Sofia Nina Greta Vera Iris Hana Amira
    Priya Lucia Freya Olga Ingrid Elif Mei Leila Petra Sarah Mary Anna Eve Carol Julia Laura Olivia Emily Linda Susan
    """.split()
)
FEMALE = frozenset("girl queen princess witch fairy mermaid grandmother hen cow".split())
MALE = frozenset("boy king prince wizard fisherman grandfather postman rooster knight blacksmith".split())
