//! Who calls whom in the shop.

/// Every service; others refer to them by index.
pub const SERVICES: [&str; 9] =
    ["frontend", "catalog", "recommendation", "cart", "checkout", "payment", "shipping", "email", "accounting"];

/// One thing that a service does while it serves a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Its own work, by median microseconds.
    Work(f64),
    /// A call of another service's operation.
    Call(Operation),
    /// A query of a database, by median microseconds.
    Query { system: &'static str, namespace: &'static str, text: &'static str, micros: f64 },
    /// A call of something outside that reports no spans.
    Outside { peer: &'static str, micros: f64 },
    /// A message that other services take up later.
    Publish { topic: &'static str, consumers: &'static [Operation] },
}

/// What a service offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Products,
    ViewCart,
    Checkout,
    List,
    Recommend,
    GetCart,
    PlaceOrder,
    Charge,
    Ship,
    SendMail,
    Book,
}

impl Operation {
    /// Index of the service, name of the span, HTTP method and route where it is served over HTTP.
    pub(super) fn describe(self) -> (usize, &'static str, Option<(&'static str, &'static str)>) {
        match self {
            Self::Products => (0, "GET /products", Some(("GET", "/products"))),
            Self::ViewCart => (0, "GET /cart", Some(("GET", "/cart"))),
            Self::Checkout => (0, "POST /checkout", Some(("POST", "/checkout"))),
            Self::List => (1, "GET /catalog/{category}", Some(("GET", "/catalog/{category}"))),
            Self::Recommend => (2, "shop.Recommendation/List", None),
            Self::GetCart => (3, "GET /carts/{id}", Some(("GET", "/carts/{id}"))),
            Self::PlaceOrder => (4, "POST /orders", Some(("POST", "/orders"))),
            Self::Charge => (5, "POST /charges", Some(("POST", "/charges"))),
            Self::Ship => (6, "POST /shipments", Some(("POST", "/shipments"))),
            Self::SendMail => (7, "orders process", None),
            Self::Book => (8, "orders process", None),
        }
    }

    pub(super) fn steps(self) -> &'static [Step] {
        use Step::{Call, Outside, Publish, Query, Work};
        const SELECT: &str = "SELECT id, name, price FROM products WHERE category = $1";
        match self {
            Self::Products => &[Work(400.0), Call(Self::List), Call(Self::Recommend)],
            Self::ViewCart => &[Work(300.0), Call(Self::GetCart)],
            Self::Checkout => &[Work(500.0), Call(Self::PlaceOrder)],
            Self::List => {
                &[Work(300.0), Query { system: "postgresql", namespace: "products", text: SELECT, micros: 1800.0 }]
            }
            Self::Recommend => &[Work(2500.0)],
            Self::GetCart => {
                &[Work(150.0), Query { system: "redis", namespace: "carts", text: "GET cart", micros: 250.0 }]
            }
            Self::PlaceOrder => &[
                Work(700.0),
                Call(Self::GetCart),
                Call(Self::Charge),
                Call(Self::Ship),
                Publish { topic: "orders", consumers: &[Self::SendMail, Self::Book] },
            ],
            Self::Charge => &[Work(900.0), Outside { peer: "bank", micros: 9000.0 }],
            Self::Ship => &[Work(1200.0)],
            Self::SendMail => &[Work(3500.0)],
            Self::Book => &[
                Work(400.0),
                Query {
                    system: "postgresql",
                    namespace: "ledger",
                    text: "INSERT INTO entries VALUES ($1, $2)",
                    micros: 2200.0,
                },
            ],
        }
    }
}

/// What visitors do, with cumulative shares.
pub(super) const VISITS: [(Operation, f64); 3] =
    [(Operation::Products, 0.62), (Operation::ViewCart, 0.85), (Operation::Checkout, 1.0)];
