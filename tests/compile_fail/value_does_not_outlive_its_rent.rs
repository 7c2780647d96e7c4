//! A reference does not outlive its rent.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let handle = shuffler.create(String::new()).unwrap();
    let text: &String;
    {
        let rent = shuffler.rent(handle).unwrap();
        text = &rent;
    }
    println!("{text}");
}
