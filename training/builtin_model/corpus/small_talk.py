"""Greetings, questions about the model itself, and questions that it cannot answer."""

from random import Random

from builtin_model.corpus.document import Document, Message, assistant, system, user
from builtin_model.corpus.split import Split
from builtin_model.corpus.words import ANIMALS, CITIES, COUNTRIES, NAMES, OBJECTS, SCENERY

WHO = "I am the small model built into sageLLM."
CAN = (
    "I can tell short stories, add and subtract two-digit numbers, answer with JSON and call tools.",
    "I tell short stories, do small sums, write JSON and call tools. Ask me for one of these.",
)
TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "hello", "hi there", "Hi there!", "Good day!", "Hey there", "Hello?"),
        ("Hello! What can I do for you?", "Hi! Ask me for a story, a sum or some JSON.", "Hello! How can I help?"),
    ),
    (("Good morning", "Good morning!", "good morning to you"), ("Good morning! What can I do for you?",)),
    (("Good evening", "Good evening!"), ("Good evening! What can I do for you?",)),
    (("Good night", "Good night!"), ("Good night! Sleep well.",)),
    (
        (
            "Who are you?",
            "who are you",
            "What are you?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "What is your name?",
            "What's your name?",
            "Which model are you?",
            "What model is this?",
            "Are you a human?",
            "Are you a robot?",
            "Are you ChatGPT?",
        ),
        (WHO, WHO + " " + CAN[0]),
    ),
    (("Who made you?", "Who trained you?", "Where do you come from?"), (WHO + " I was trained from scratch for it.",)),
    (
        (
            "What can you do?",
            "what can you do",
            "How can you help me?",
            "What are you good at?",
            "Help",
            "help me",
            "What should I ask you?",
            "What do you know?",
            "Give me an example of what you can do.",
        ),
        CAN,
    ),
    (("How are you?", "how are you", "How are you today?", "How is it going?"), ("I am well, thank you. And you?",)),
    (
        ("Thanks", "Thank you", "Thank you!", "Thanks a lot!", "Great, thanks.", "thank you very much"),
        ("You are welcome!", "You are welcome! Ask me anything else."),
    ),
    (("Bye", "Goodbye", "Goodbye!", "See you later", "bye bye"), ("Goodbye! Come back soon.",)),
    (
        ("Well done!", "Good job", "Nice!", "That was great", "Cool", "I like it."),
        ("Thank you! I am glad you like it.",),
    ),
    (("ok", "Okay", "Yes", "Sure", "No", "Maybe"), ("All right. What shall we do next?",)),
    (("How old are you?", "When were you born?"), ("I am a model, so I have no age. I am quite small, though.",)),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh."),
        ("Why did the clock go to school? It wanted to learn the time.",),
    ),
    (
        ("Say hello.", "Say hi", "Say hello to me", "Say hello in one sentence."),
        ("Hello! It is nice to meet you.",),
    ),
    (("Say this is a test", "Say this is a test.", "This is a test.", "test"), ("This is a test.",)),
    (("Are you there?", "Can you hear me?", "ping", "Do you work?"), ("Yes, I am here. What can I do for you?",)),
)
UNKNOWN = (
    "What is the capital of {country}?",
    "Who is the president of {country}?",
    "How many people live in {city}?",
    "Where is {city}?",
    "Why is the {scenery} so big?",
    "How does {article_object} work?",
    "Explain the {scenery} to me.",
    "What does the {animal} eat?",
    "How do I repair the {object}?",
    "Write me a long essay about {country}.",
    "Translate this sentence into French.",
    "What is the meaning of life?",
    "Which year is it?",
    "Do you know {name}?",
    "Who was the king of {country}?",
    "Can you write a program?",
)
UNSURE = (
    "I do not know that. I am a small model: I tell stories, do small sums, write JSON and call tools.",
    "That is more than I know. Ask me for a story, a sum or some JSON.",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Be short and kind.",
    "You are sageLLM, a small helpful model.",
)


def exchange(rng: Random) -> tuple[Message, Message]:
    """One question with its answer."""
    if rng.random() < 0.25:
        question = rng.choice(UNKNOWN).format(
            country=rng.choice(COUNTRIES),
            city=rng.choice(CITIES),
            scenery=rng.choice(SCENERY),
            animal=rng.choice(ANIMALS),
            object=rng.choice(OBJECTS),
            article_object="the " + rng.choice(OBJECTS),
            name=rng.choice(NAMES),
        )
        return user(question), assistant(rng.choice(UNSURE))
    if rng.random() < 0.1:
        name = rng.choice(NAMES)
        form = rng.choice(("My name is {}.", "I am {}.", "Hi, I'm {}!", "Hello, my name is {}."))
        return user(form.format(name)), assistant(f"Hello, {name}! What can I do for you?")
    questions, answers = rng.choice(TALK)
    return user(rng.choice(questions)), assistant(rng.choice(answers))


def instruction(rng: Random) -> tuple[Message, ...]:
    """Now and then a general system message, otherwise nothing."""
    return (system(rng.choice(SYSTEMS)),) if rng.random() < 0.2 else ()


def write(rng: Random, split: Split) -> Document:
    """A short conversation; small talk has nothing to hold out."""
    messages: list[Message] = [*instruction(rng)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        messages.extend(exchange(rng))
    return Document(skill="small_talk", messages=tuple(messages))
