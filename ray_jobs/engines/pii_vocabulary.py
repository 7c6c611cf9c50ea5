"""The words the recognisers of personal data go by, and nothing else."""


def words(text: str) -> frozenset[str]:
    """The blank-separated words of a text."""
    return frozenset(text.split())


ACKNOWLEDGEMENTS = words(
    """
    ok okay yes yeah yep yup uh huh um mm mhm hmm right sure got it great thanks thank you perfect lovely
    alright all and then next go ahead on carry continue please sorry again the rest keep going i see that's so
    good cool ready fine brilliant excellent now i'm with noted correct noise laughter
    """
)
"""What one party says while the other reads something out."""

FILLERS = words(
    """
    um uh er erm ah and then dash hyphen space slash dot point stroke sorry no wait i mean actually okay ok yes
    yeah so correction scratch that that's it's is next again right let me see like well comma plus hold on
    """
)
"""What a speaker says between the digits of one number."""

UNITS = words(
    """
    dollar dollars buck bucks pound pounds quid euro euros cent cents pence p percent per degrees second seconds
    minute minutes min mins hour hours day days night nights week weeks month months year years times time mile
    miles kilometers kilometres meters metres feet foot inch inches gig gigs gigabytes megabytes megabits mb gb
    mbps kilowatt kilowatts kwh units people person persons guests adults kids children items boxes lines things
    ways options payments instalments installments digits digit numbers calls bars lights steps am pm o'clock
    business working more of other others different free separate channels devices rooms bedrooms copies pieces
    bags tickets seats bottles tablets pills milligrams kilobit
    """
)
"""What makes an amount of the number before it."""

NOT_LOCAL_PARTS = words(
    """
    is it it's its that that's this still to the an address email mail me my your his her our their yes yeah yep
    no on use so and or for be was send sent from as confirm okay ok um uh er well right sure have got correct
    reach contact write by with of in account username login i'm i'll you we just under then please would called
    goes here here's want into work personal new old same one's actually sorry wait mean guess think spelled
    spelt
    """
)
"""Words before a dictated e-mail address that do not belong to it."""

ORGANISATION_WORDS = words(
    """
    support insurance clinic bank fitness dental mobile fiber fibre energy furniture services service group inc
    llc ltd limited company hotel hotels airlines airways telecom wireless broadband internet utilities electric
    water gas hospital pharmacy university college school credit union financial finance capital motors auto
    health healthcare medical store shop market foods travel cruises media systems software solutions
    technologies labs logistics express delivery couriers post mutual savings trust building society council
    department customer sales billing team desk helpdesk office centre center network networks cable power
    street avenue road lane drive court close way boulevard place terrace crescent parkway square garden gardens
    hill grove row mews highway circle county city town park airport station
    """
)
"""Words that make the name before them an organisation's or a place's."""

NOT_NAMES = words(
    """
    i i'm i've i'll i'd monday tuesday wednesday thursday friday saturday sunday january february march april
    may june july august september october november december yes no okay ok sir madam ma'am miss mister mrs mr
    dr doctor professor god english spanish french german google windows mac apple android iphone wi-fi wifi
    internet christmas easter thanksgiving visa mastercard amex paypal amazon netflix facebook zoom outlook
    gmail it's its it that that's the this my your our we you he she they and but so because if when what where
    why how who which please thanks thank hello hi hey goodbye bye sorry sure great good right alright well let
    can could would will do does did is are was were have has had not don't can't all any some just now then
    there here perfect lovely wonderful brilliant excellent absolutely certainly one two three four five six
    seven eight nine ten for to from with at by in on of as oh um uh er ah hmm mm also maybe really actually
    currently mom mum dad morning afternoon evening night today tomorrow yesterday express street support
    billing customer account security social date phone email agent hold calling speaking whats what's who's
    let's there's here's we're you're they're won't didn't isn't wasn't doesn't give take set put get got go
    going see say says said make nobody everyone someone back again about after before under still her his their
    him them me us through number code zip expiry address name card cvv cvc ssn dob pin order ticket invoice
    refund router modem correct european british american irish scottish canadian australian indian chinese
    noise laughter server custom speech left
    """
)
"""Capitalised in speech recognised as text, or after "this is", and yet nobody's name."""

NAMES_AND_VERBS = words("will may april june august")
"""Words of NOT_NAMES that are given names where a surname follows within a sentence."""

NAMES_AND_WORDS = words(
    """
    will mark grace hope joy faith rose may june april dawn art bill frank grant rich drew chase pat sue summer
    angel ray gene miles dale glen max mercy don sunny hunter carter mason cooper taylor page paige jean guy
    dean earl duke king penny violet ivy iris lily daisy ruby pearl amber crystal jade olive ginger sage basil
    cliff lane brook brooks forest heath stone young long short brown green white black gray grey small little
    price love day best rush park field woods hill lake rivers banks church bishop pope wise strong swift bush
    moon star west north case cash cook baker singer walker fisher porter butler ward wells winters
    """
)
"""Names that are common words: in lower case they are not taken for a repeated name."""

GIVEN_NAMES = words(
    """
    aaliyah aaron abdul abigail adam adriana adrian agnes agnieszka ahmed aidan aisha alan alana albert
    alejandra alejandro alex alexander alexandra alexis ali alice alicia alison allison alma amanda amelia amina
    amir amit amy ana anastasia anders andre andrea andreas andrew andy angela angelika angie angus anika anil
    anita ann anna anne annette annie ansel anthony anton antonia antonio anya aoife arjun arthur arun asha
    ashley ashok astrid audrey barbara barry bartek beata beatrice beatriz becky belinda ben benjamin bernadette
    bernard beth bethany betty beverly bianca birgit bjorn bob bobby boris bonnie brad bradley brandon brenda
    brendan brian bridget brigitte bruce bruno bryan caitlin caleb callum cameron camila camille carla carlos
    carmen caroline carolyn catherine cathy cecilia cedric celia cesar charles charlie chidi chinedu chioma
    chloe chris christian christina christine christopher ciara cindy claire clara claudia clifford clive colin
    colleen connor conor consuelo cora cornelius craig cynthia dalia damian damien dan dana daniel daniela
    danielle danny daphne darren dave david deborah debbie declan deepak deirdre delia dennis denise derek
    desmond diana diane diego dieter dimitri dmitri dolores dominic donald donna doreen doris dorothy doug
    douglas duncan dylan ebony eddie edgar edith edmund eduardo edward edwin eileen elaine eleanor elena eleni
    eli elias elijah elise eliza elizabeth ella ellen ellie elliot eloise elsie emeka emil emily emma enrique
    eric erica erik erika erin ernest ernesto esteban esther ethan eugene eva evan evelyn ezra fatima fatou
    felicity felipe felix femi fernando fiona florian fran frances francesca francis francisco franco fred
    freddie frederick freya frida gabriel gabriela gail gareth garth gary gavin gemma geoff geoffrey george
    gerald geraldine gerard giles gillian gina giorgio giovanni gita giulia gloria gordon graham greg gregory
    greta guillermo gunther gustavo gwen gwendolyn hamish hamza hana hannah hans harold harpreet harriet harry
    haruki harvey hassan hazel heather hector heidi heinrich helen helena helga henrik henry herbert hiroshi
    holly howard hugh hugo hussein ian ibrahim ida ignacio igor imani imogen imran indira ines ingrid ioana
    irena irene irfan isaac isabel isabella isabelle isla ismail ivan jackie jacob jacqueline jaime jake jakub
    jamal james jamie jan jane janet janice jared jasmine jason javier jayden jeff jeffrey jen jenna jennifer
    jenny jeremy jerome jerry jesse jessica jill jim jimmy jin jo joachim joan joann joanna joanne jodie joe
    joel johan johanna john johnny jon jonas jonathan jorge jose josefina joseph josephine josh joshua joyce
    juan juanita judith judy julia julian juliana julie juliet jun jurgen justin kamal karen karim karin karl
    karolina kate katarina katherine kathleen kathryn kathy katie katrina kavita kayla keiko keisha keith kelly
    kenji kenneth kenny kerry kevin khadija khalid kieran kim kimberly kiran kirsten klaus kofi krishna kristen
    kristin krzysztof kurt kwame kyle lakshmi lamar lara larry lars latoya laura lauren laurence lawrence leah
    leila leilani lena leo leon leonard leroy leslie leticia lewis liam lillian linda lindsay lisa liz ljubica
    lloyd logan lois lola lorenzo loretta lorna lorraine lotte louis louisa louise lucia lucas lucille lucy
    luigi luis luisa lukas luke luna luz lydia lynn mabel maggie magnus mahmoud maja malcolm malik mandy manuel
    marcel marcelo marcia marcin marco marcus margaret margarita margot marguerite maria mariam marian marie
    marilyn mario marion marisol marjorie marlene marta martha martin martina marvin mary mateo matilda matt
    matteo matthew maureen maurice maya megan mehmet mei melanie melissa mercedes mia michael michaela michal
    michelle miguel mika mike mikhail mila mildred milo mina miranda miriam mirjana mitchell mohamed mohammad
    mohammed moira mona monica monika monique morten muhammad muriel murray mustafa nadia nadine nancy naomi
    natalia natalie natasha nathan nathaniel neha neil nelson ngozi nguyen niamh nicholas nick nicola nicole
    nigel nikhil nikolai nina nisha noah noel noor nora norma norman nuria obinna octavia odette oksana olaf
    oleg olga olivier oliver olivia oluwaseun omar oscar osvaldo owen pablo padraig paloma pam pamela paolo
    pascal patrice patricia patrick paul paula pauline pavel pedro peggy percy peter petra phil philip philippa
    phillip phoebe phyllis pierre piotr pooja prakash preeti priya priyanka przemek rachel radha rafael rahul
    raj rajesh ralph ramon randall rania raquel rashid ravi raymond rebecca reginald reiko rekha renata rene
    renee rhonda ricardo richard ricky rita rob robert roberta roberto robin rodney rodrigo roger rohan roisin
    roland ron ronald rosa rosalind rosario rosemary rosie ross roxanne roy rupert russell ruth ryan sabine
    sabrina sadie saeed sakura sally salma sam samantha samir samuel sandeep sandra sandro sandy sanjay santiago
    saoirse sara sarah saskia scott sean sebastian selena selina serena sergei sergio seth shane shannon sharon
    shaun shauna sheila shelley sherry shirley sienna sigrid silvia simon simone sinead siobhan sofia sonia
    sonya sophia sophie stacey stan stanley stefan stefania stella stephanie stephen steve steven stewart stuart
    suleiman sunil sunita suresh susan susanna suzanne sven svetlana sylvia takeshi tamara tamika tanya tara
    tariq tatiana ted teresa terence terrence terry tessa thelma theo theodore theresa thierry thomas thorsten
    tiffany tim timothy tina tobias toby todd tom tomas tomasz tommy toni tony tracey tracy trevor trisha
    tristan tyler uche ulrich ursula usman valentina valerie vanessa vera vernon veronica vicky victor vijay
    vikram vincent vinod viola vivian vladimir walter wanda wanjiru warren wayne wei wendy wesley wilfred
    william wilma wojciech xavier xiomara yasmin yolanda yuki yusuf yvette yvonne zachary zahra zainab zara
    zeynep zoe zofia
    """
)
"""Given names that are nothing else in English: a capitalised one is a person's, whatever the sentence.

Written by hand from names common in English-speaking countries and among people who moved there. Names that are also
words, months, cities or companies (Grace, May, Austin, Morgan) are left out: a phrase or a model has to speak for them.
"""

MONTHS = words(
    """
    january february march april may june july august september october november december
    jan feb mar apr jun jul aug sept sep oct nov dec
    """
)

STREETS = words(
    """
    street st avenue ave road rd lane ln drive dr court ct close way boulevard blvd place pl terrace crescent
    parkway pkwy square gardens hill grove row mews highway hwy circle cir trail loop walk park green view rise
    alley plaza heights ridge quay wharf turnpike pike path run crossing point broadway embankment causeway
    """
)

SPELLING_WORDS = words(
    """
    alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike november oscar papa
    quebec romeo sierra tango uniform victor whiskey whisky xray yankee zulu
    """
)
"""What stands for a letter in the NATO alphabet."""

STATES = (
    "alabama", "alaska", "arizona", "arkansas", "california", "colorado", "connecticut", "delaware", "florida",
    "georgia", "hawaii", "idaho", "illinois", "indiana", "iowa", "kansas", "kentucky", "louisiana", "maine",
    "maryland", "massachusetts", "michigan", "minnesota", "mississippi", "missouri", "montana", "nebraska",
    "nevada", "new hampshire", "new jersey", "new mexico", "new york", "north carolina", "north dakota", "ohio",
    "oklahoma", "oregon", "pennsylvania", "rhode island", "south carolina", "south dakota", "tennessee",
    "texas", "utah", "vermont", "virginia", "washington", "west virginia", "wisconsin", "wyoming", "england",
    "scotland", "wales", "northern ireland", "ireland",
)  # fmt: skip

STATE_CODES = words(
    """
    AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK
    OR PA RI SC SD TN TX UT VT VA WA WV WI WY DC
    """
)

NOT_IN_STREETS = words(
    """
    is the and on in at to of for my your a i it that this from with we you was dollars pounds last by she he
    they won't if or so but work works please because when then as be can will today tomorrow
    """
)
"""Words that end a street's name, or show that a number was no house number."""
