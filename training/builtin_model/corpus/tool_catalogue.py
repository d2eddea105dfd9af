"""Tools that people really offer, each with the ways in which its use is asked for.

A parameter is (name, description, draw); a request names parameters in braces, and those that it does not name are
optional for the tool and left out of the call.
"""

from dataclasses import dataclass

from builtin_model.corpus import values, words
from builtin_model.corpus.values import Draw, between, of

UNITS = ["celsius", "fahrenheit"]
CURRENCIES = ["USD", "EUR", "GBP", "JPY", "CHF", "INR", "CAD", "AUD"]
GENRES = ["jazz", "rock", "pop", "folk", "blues", "classical"]


@dataclass(frozen=True)
class Family:
    """One tool: the names it goes by, what it does, its parameters, and requests for it.

    Two families of one topic are never offered together, for a request could mean either.
    """

    names: tuple[str, ...]
    purpose: str
    parameters: tuple[tuple[str, str, Draw], ...]
    requests: tuple[str, ...]
    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()
    topic: str = ""


FAMILIES = (
    Family(
        ("get_weather", "get_current_weather", "weather", "fetch_weather"),
        "Get the current weather for a city",
        (("city", "Name of the city", of(words.CITIES)), ("unit", "Temperature unit", of(UNITS))),
        ("What is the weather in {city}?", "What's the weather like in {city}?",
         "How is the weather in {city} in {unit}?",
         "Weather in {city}, please.", "Is it warm in {city}? Use {unit}.", "Tell me the weather in {city}."),
        (("unit", tuple(UNITS)),),
        topic="weather",
    ),
    Family(
        ("get_weather", "get_current_temperature", "get_forecast"),
        "Get the weather at a location",
        (("location", "The city, e.g. Paris", of(words.CITIES)), ("days", "Number of days", between(1, 14))),
        ("What is the weather in {location}?", "What's the temperature in {location}?", "Will it rain in {location}?",
         "Forecast for {location} for {days} days", "How will the weather be in {location} in the next {days} days?"),
        topic="weather",
    ),
    Family(
        ("send_email", "send_mail", "email"),
        "Send an email",
        (("to", "Address of the receiver", values.email), ("subject", "Subject line", values.title),
         ("body", "Text of the email", values.sentence)),
        ("Send an email to {to} with the subject {subject} and the text: {body}.",
         "Write to {to}. Subject: {subject}. Text: {body}.", "Email {to}: {body}."),
    ),
    Family(
        ("send_message", "send_sms", "text_message"),
        "Send a text message",
        (("recipient", "Who gets the message", of(words.NAMES)), ("message", "The text", values.sentence)),
        ("Tell {recipient}: {message}.", "Send {recipient} the message: {message}.", 'Text {recipient} "{message}".'),
    ),
    Family(
        ("set_timer", "start_timer"),
        "Set a timer",
        (("minutes", "Minutes until it rings", between(1, 120)), ("label", "Name of the timer", of(words.FOODS))),
        ("Set a timer for {minutes} minutes.", "Start a {minutes} minute timer for {label}.",
         "Wake me in {minutes} minutes."),
    ),
    Family(
        ("set_alarm", "create_alarm"),
        "Set an alarm",
        (("time", "Time of day", values.clock), ("day", "Day of the week", of(words.DAYS))),
        ("Set an alarm for {time}.", "Wake me up at {time} on {day}.", "I need an alarm at {time}."),
    ),
    Family(
        ("create_event", "add_event", "schedule_meeting"),
        "Add an event to the calendar",
        (("title", "Title of the event", values.title), ("date", "Date", values.date), ("time", "Start", values.clock)),
        ("Add {title} to my calendar on {date} at {time}.", "Plan {title} for {date}.",
         "Schedule {title} on {date} at {time}."),
    ),
    Family(
        ("create_reminder", "remind_me", "add_reminder"),
        "Create a reminder",
        (("text", "What to remember", values.sentence), ("date", "Date", values.date)),
        ("Remind me on {date}: {text}.", "Create a reminder: {text}.", "Set a reminder for {date}: {text}."),
    ),
    Family(
        ("convert_currency", "exchange_money"),
        "Convert an amount between currencies",
        (("amount", "Amount of money", between(1, 999)), ("from_currency", "Currency code", of(CURRENCIES)),
         ("to_currency", "Currency code", of(CURRENCIES))),
        ("Convert {amount} {from_currency} to {to_currency}.", "How much is {amount} {from_currency} in {to_currency}?",
         "Change {amount} {from_currency} into {to_currency}."),
    ),
    Family(
        ("translate_text", "translate"),
        "Translate a text into another language",
        (("text", "The text", values.sentence), ("target_language", "Language to translate into", of(words.LANGUAGES))),
        ("Translate into {target_language}: {text}.", 'Translate "{text}" to {target_language}.',
         'How do you say "{text}" in {target_language}?'),
    ),
    Family(
        ("search_web", "web_search", "search"),
        "Search the web",
        (("query", "Words to search for", values.phrase), ("limit", "Most results to return", between(1, 20))),
        ("Search the web for {query}.", "Find {limit} pages about {query}.", "Look up {query}.", "search for {query}"),
    ),
    Family(
        ("play_music", "play_song"),
        "Play music",
        (("artist", "Name of the artist", values.full_name), ("genre", "Kind of music", of(GENRES)),
         ("volume", "Loudness from 0 to 100", between(0, 100))),
        ("Play something by {artist}.", "Play {genre} at volume {volume}.", "I want to hear {genre} by {artist}.",
         "Play {genre}."),
    ),
    Family(
        ("book_table", "reserve_table"),
        "Book a table in a restaurant",
        (("restaurant", "Name of the restaurant", values.title), ("people", "Number of guests", between(1, 12)),
         ("time", "Time of day", values.clock)),
        ("Book a table at {restaurant} for {people} people at {time}.", "Reserve {people} seats at {restaurant}.",
         "A table for {people} at {restaurant}, {time}, please."),
    ),
    Family(
        ("book_flight", "find_flights", "search_flights"),
        "Find flights between two cities",
        (("origin", "City of departure", of(words.CITIES)), ("destination", "City of arrival", of(words.CITIES)),
         ("date", "Date of the flight", values.date)),
        ("Find a flight from {origin} to {destination} on {date}.", "I want to fly from {origin} to {destination}.",
         "Flights from {origin} to {destination} on {date}?"),
    ),
    Family(
        ("add", "add_numbers", "sum"),
        "Add two numbers",
        (("a", "First number", between(0, 9999)), ("b", "Second number", between(0, 9999))),
        ("Add {a} and {b} with the tool.", "What is {a} plus {b}?", "What is {a} + {b}?",
         "Use the tool to add {a} and {b}."),
        topic="sums",
    ),
    Family(
        ("multiply", "multiply_numbers"),
        "Multiply two numbers",
        (("a", "First number", between(0, 999)), ("b", "Second number", between(0, 999))),
        ("Multiply {a} by {b}.", "What is {a} times {b}?", "What is {a} * {b}?"),
        topic="sums",
    ),
    Family(
        ("calculate", "calculator", "evaluate_expression"),
        "Work out an expression",
        (("expression", "The expression",
          lambda rng: f"{rng.randint(1, 999)} {rng.choice('+-*/')} {rng.randint(1, 999)}"),),
        ("Calculate {expression}.", "What is {expression}?", "Use the calculator: {expression}",
         "Work out {expression}."),
        topic="sums",
    ),
    Family(
        ("get_time", "current_time", "get_local_time"),
        "Get the local time in a city",
        (("city", "Name of the city", of(words.CITIES)),),
        ("What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?"),
    ),
    Family(
        ("get_stock_price", "stock_price"),
        "Get the price of a share",
        (("symbol", "Symbol of the share", lambda rng: values.code(rng)[:2] + rng.choice("ABCXYZ")),),
        ("What is the price of {symbol}?", "How much is a {symbol} share?", "Stock price of {symbol}, please."),
    ),
    Family(
        ("turn_on_light", "switch_light", "set_light"),
        "Control a lamp",
        (("room", "Which room", of(["kitchen", "bedroom", "bathroom", "hall", "garage", "office", "garden"])),
         ("state", "on or off", of(["on", "off"])), ("brightness", "From 0 to 100", between(0, 100))),
        ("Turn the light in the {room} {state}.", "Switch the {room} light {state}.",
         "Turn {state} the {room} light with brightness {brightness}."),
        (("state", ("on", "off")),),
    ),
    Family(
        ("set_temperature", "set_thermostat"),
        "Set the temperature of a room",
        (("room", "Which room", of(["kitchen", "bedroom", "bathroom", "hall", "office"])),
         ("degrees", "Temperature in celsius", between(10, 30))),
        ("Set the {room} to {degrees} degrees.", "Make it {degrees} degrees in the {room}.",
         "Heat the {room} to {degrees}."),
    ),
    Family(
        ("create_user", "add_contact", "register_person"),
        "Store a person",
        (("name", "Full name", values.full_name), ("age", "Age in years", between(1, 99)),
         ("email", "Address", values.email)),
        ("Create an entry for {name}, age {age}, email {email}.", "Add {name} who is {age} years old.",
         "Store {name}, {email}."),
    ),
    Family(
        ("read_file", "open_file", "delete_file"),
        "Work with a file by its path",
        (("path", "Path of the file",
          lambda rng: f"{rng.choice(words.OBJECTS)}/{rng.choice(words.ANIMALS)}"
          f".{rng.choice(['txt', 'md', 'csv', 'json'])}"),),
        ("Use the file {path}.", "Please take {path}.", "What about {path}?", "Do it with the file {path}."),
    ),
    Family(
        ("get_order_status", "track_order", "order_status"),
        "Look up an order",
        (("order_id", "Number of the order", values.code),),
        ("Where is my order {order_id}?", "What is the status of order {order_id}?", "Track order {order_id}."),
    ),
    Family(
        ("buy_item", "order_product", "add_to_cart"),
        "Order a product",
        (("product", "Name of the product", values.phrase), ("quantity", "How many", between(1, 30))),
        ("Order {quantity} times {product}.", "Buy {product}, quantity {quantity}.", "I want to buy {product}."),
    ),
)  # fmt: skip
